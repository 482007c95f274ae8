package tactful.flink;

import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.TopicExistsException;

/** The topics of an entities' job: made where they are missing, and refused where they do not fit. */
final class EntityTopics {
    /** Most bytes of a record, as in the topics that tactful makes. */
    static final int LARGEST = 5 * 1024 * 1024;

    private EntityTopics() {}

    static void ensure(EntitySpec spec) {
        try (Admin admin = Admin.create(spec.client())) {
            Set<String> known = admin.listTopics().names().get();
            if (!known.contains(spec.topic)) {
                throw new IllegalStateException("topic " + spec.topic
                        + ", the log, does not exist: start `tactful serve` or `tactful worker` first, which make it");
            }
            int partitions = partitions(admin, spec.topic);
            make(admin, known, spec.entitiesTopic, partitions);
            make(admin, known, spec.erasedTopic, 1);
            check(admin, spec.entitiesTopic, partitions);
            check(admin, spec.erasedTopic, 1);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(interrupted);
        } catch (ExecutionException failed) {
            throw new IllegalStateException("the topics cannot be made or described", failed.getCause());
        }
    }

    private static void make(Admin admin, Set<String> known, String name, int partitions)
            throws InterruptedException, ExecutionException {
        if (known.contains(name)) {
            return;
        }
        NewTopic topic = new NewTopic(name, Optional.of(partitions), Optional.empty());
        topic.configs(Map.of(
                TopicConfig.CLEANUP_POLICY_CONFIG, TopicConfig.CLEANUP_POLICY_COMPACT,
                TopicConfig.MAX_MESSAGE_BYTES_CONFIG, String.valueOf(LARGEST + 1024)));
        try {
            admin.createTopics(List.of(topic)).all().get();
        } catch (ExecutionException failed) {
            if (!(failed.getCause() instanceof TopicExistsException)) { // made by another just now
                throw failed;
            }
        }
    }

    private static void check(Admin admin, String name, int partitions)
            throws InterruptedException, ExecutionException {
        int found = partitions(admin, name);
        if (found != partitions) {
            throw new IllegalStateException("topic " + name + " has " + found + " partitions, not " + partitions
                    + ": name another topic, which is then made");
        }
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, name);
        var policy = admin.describeConfigs(List.of(topic)).all().get().get(topic)
                .get(TopicConfig.CLEANUP_POLICY_CONFIG);
        if (policy != null && !policy.value().equals(TopicConfig.CLEANUP_POLICY_COMPACT)) {
            throw new IllegalStateException("topic " + name + " has cleanup.policy " + policy.value()
                    + ", which deletes values that are still needed: it must be compact");
        }
    }

    private static int partitions(Admin admin, String name) throws InterruptedException, ExecutionException {
        for (int attempt = 0; ; attempt++) {
            try {
                return admin.describeTopics(List.of(name)).allTopicNames().get().get(name).partitions().size();
            } catch (ExecutionException failed) {
                if (attempt == 20) { // a topic that was just made is not known to all brokers yet
                    throw failed;
                }
                Thread.sleep(250);
            }
        }
    }
}
