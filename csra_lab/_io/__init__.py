"""What reads and writes files for the other rooms."""
