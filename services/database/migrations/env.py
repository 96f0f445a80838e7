"""Alembic's entry point; run by `services.database.cluster.migrate`."""

from alembic import context
from sqlalchemy import create_engine, pool

from services.database.tables import metadata

engine = create_engine(
    context.config.get_main_option("sqlalchemy.url") or "", poolclass=pool.NullPool
)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Two processes that start at once must not migrate at once.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7331)")
        context.run_migrations()
