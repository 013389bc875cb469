"""Real Celery workers, Redis and Postgres as processes: few tests, each named by what it promises."""
