"""The reference fleet: one Celery app, run by `celery -A workers.app worker` and watched by Flower."""
