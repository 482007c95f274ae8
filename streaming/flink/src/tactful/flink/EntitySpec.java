package tactful.flink;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;

/** What an entities' job is to do, as {@code tactful_streaming.flink.entities} writes it. */
final class EntitySpec {
    final String tag; // identifies the definitions
    final String servers;
    final String topic;
    final String entitiesTopic;
    final String erasedTopic;
    final String group;
    final long delayMs;
    final long latenessMs;
    final int dedupeDays;
    final long publishMs;
    final long lookMs;
    final boolean readsCategories; // of the items of events
    final boolean readsVersions; // of items at the times of events
    final Set<String> fields = new HashSet<>(); // of an event that are read
    final Set<String> properties = new HashSet<>(); // of events and items
    final Set<String> apart = new HashSet<>(); // types of events that are no custom ones
    final Map<Integer, Long> ends; // offsets by partition where reading ends; null: never
    final List<EntityLayout> entities = new ArrayList<>();
    private final JsonNode kafka;

    EntitySpec(String json) {
        JsonNode spec;
        try {
            spec = new ObjectMapper().readTree(json);
        } catch (IOException broken) {
            throw new UncheckedIOException(broken);
        }
        tag = spec.get("tag").asText();
        servers = spec.get("servers").asText();
        topic = spec.get("topic").asText();
        entitiesTopic = spec.get("entities_topic").asText();
        erasedTopic = spec.get("erased_topic").asText();
        group = spec.get("group").asText();
        delayMs = spec.get("delay_ms").asLong();
        latenessMs = spec.get("lateness_ms").asLong();
        dedupeDays = spec.get("dedupe_days").asInt();
        publishMs = spec.get("publish_ms").asLong();
        lookMs = spec.get("look_ms").asLong();
        readsCategories = spec.get("reads_categories").asBoolean();
        readsVersions = spec.get("reads_versions").asBoolean();
        spec.get("fields").forEach(name -> fields.add(name.asText()));
        spec.get("properties").forEach(name -> properties.add(name.asText()));
        spec.get("apart").forEach(type -> apart.add(type.asText()));
        spec.get("entities").forEach(entity -> entities.add(new EntityLayout(entity)));
        kafka = spec.get("kafka");
        ends = spec.hasNonNull("ends") ? new HashMap<>() : null;
        if (ends != null) {
            spec.get("ends").fields()
                    .forEachRemaining(end -> ends.put(Integer.valueOf(end.getKey()), end.getValue().asLong()));
        }
    }

    /** The properties of Kafka's clients. */
    Properties client() {
        Properties client = new Properties();
        kafka.fields().forEachRemaining(one -> client.setProperty(one.getKey(), one.getValue().asText()));
        client.setProperty("bootstrap.servers", servers);
        return client;
    }

    /** The hash that stands for an entity in keys of state and among the erased. */
    static String hash(String kind, String name) {
        byte[] text = (kind + ":" + name).getBytes(StandardCharsets.UTF_8);
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(text);
            StringBuilder hash = new StringBuilder(32);
            for (int place = 0; place < 16; place++) {
                hash.append(Character.forDigit(digest[place] >> 4 & 15, 16));
                hash.append(Character.forDigit(digest[place] & 15, 16));
            }
            return hash.toString();
        } catch (NoSuchAlgorithmException missing) {
            throw new IllegalStateException(missing);
        }
    }
}
