"""What a run is and what it leaves behind: identity, records, the only writer, and the tables made from them."""
