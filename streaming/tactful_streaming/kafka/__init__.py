"""The event log in Kafka: topics, consumer group, transactional producer.

It may import `contract`, `decode`, `definitions`, `kernels`, `log`, `state`.
Begin with `kafka_log`.
"""
