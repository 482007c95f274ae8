package tactful.flink;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * The topic of erased people: hashes of users, devices and sessions. It is read to its end before a
 * partition is, so that no event of theirs is counted after a fresh start either.
 */
final class ErasedTopic {
    /** The value of a row that ends the erasures before it; a worker waits for it to come back in a mark. */
    static final String END = "end";
    private static final long LONGEST_MS = 60_000;

    private ErasedTopic() {}

    /** The hashes of all erased users and devices. */
    static Set<String> people(EntitySpec spec) {
        Set<String> people = new HashSet<>();
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(spec.client(), bytes, bytes)) {
            List<TopicPartition> partitions = consumer.partitionsFor(spec.erasedTopic).stream()
                    .map(one -> new TopicPartition(one.topic(), one.partition()))
                    .collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            long until = System.currentTimeMillis() + LONGEST_MS;
            while (partitions.stream().anyMatch(one -> consumer.position(one) < ends.get(one))) {
                for (ConsumerRecord<byte[], byte[]> row : consumer.poll(Duration.ofMillis(200))) {
                    if (row.key() != null && row.value() != null
                            && new String(row.value(), StandardCharsets.UTF_8).equals("user")) {
                        people.add(new String(row.key(), StandardCharsets.UTF_8));
                    }
                }
                if (System.currentTimeMillis() > until) {
                    throw new IllegalStateException("topic " + spec.erasedTopic + " was not read within a minute");
                }
            }
        }
        return people;
    }
}
