"""PCB-Merging for mergekit: importing this package offers ``merge_method: pcb``.

The installed start-up file imports it in every process, so it must stay light:
nothing beyond what the interpreter has already loaded may be imported from here.
"""

from mergekit_pcb import autoload

__version__ = "0.1.0"

autoload.install()
