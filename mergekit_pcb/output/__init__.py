"""What commands write: files and folders that are whole or absent, pages, figures."""
