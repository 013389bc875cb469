"""What only reads the record: by worker (`loading`, `started`, `finding`), and for people (`views`, `notices`)."""
