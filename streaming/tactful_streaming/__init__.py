"""Events, the durable log, and the event-time engine that turns them into features."""
