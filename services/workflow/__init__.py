"""Use cases: functions over a unit of work, called by listeners, by Prefect tasks and by tests."""
