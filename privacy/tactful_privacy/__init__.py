"""Private statistics: exact noise, bounded contributions, a durable ledger of releases."""
