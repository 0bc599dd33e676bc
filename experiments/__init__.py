"""Evidence on real models and data: scripts run by hand, and what they gave."""
