"""Where bytes lie: hot, warm and cold tiers, digests, verified copies."""
