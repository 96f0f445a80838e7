"""Tables, repositories, unit of work, outbox and migrations, on PostgreSQL."""
