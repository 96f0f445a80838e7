"""Where bytes lie: landing, hot, warm and cold tiers, quarantine, digests, verified copies."""
