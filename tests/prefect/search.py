"""What Prefect has kept, wherever it may have put it."""

from __future__ import annotations

from sqlalchemy import create_engine, text

from services.settings import Settings


def rows_with(settings: Settings, words: str) -> dict[str, int]:
    """How many rows of each table of Prefect's database hold these words, in any column."""
    engine = create_engine(settings.prefect_store_url.replace("+asyncpg", "+psycopg"))
    found: dict[str, int] = {}
    try:
        with engine.connect() as connection:
            tables = connection.execute(
                text("SELECT table_name FROM information_schema.tables WHERE table_schema='public'")
            ).scalars()
            for table in tables:
                query = text(f'SELECT count(*) FROM "{table}" t WHERE t::text ILIKE :words')
                if count := connection.execute(query, {"words": f"%{words}%"}).scalar_one():
                    found[table] = count
    finally:
        engine.dispose()
    return found
