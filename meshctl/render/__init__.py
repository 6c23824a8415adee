"""What meshctl prints."""
