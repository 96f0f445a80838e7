"""Keys and what is sealed with them. No table, no message and no rule about either lives here."""
