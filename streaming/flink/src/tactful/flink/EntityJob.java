package tactful.flink;

import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.KafkaSourceBuilder;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

/**
 * The job that computes packed entities.
 *
 * <pre>
 * log ──→ LogPartition ──→ EntityOperator of users ─────→ entities' topic, in the log's partitions
 * erased ──→ (each)   └──→ EntityOperator of sessions ──→ the same topic
 * </pre>
 *
 * <p>State of other definitions is not taken over: operators are named by the definitions, so Flink
 * refuses a savepoint of others.
 */
final class EntityJob {
    private EntityJob() {}

    static void build(StreamExecutionEnvironment environment, String json) {
        EntitySpec spec = new EntitySpec(json);
        EntityTopics.ensure(spec);
        TypeInformation<LogRecord> records = Types.POJO(LogRecord.class);
        DataStream<LogRecord> log = environment.fromSource(
                        log(spec), WatermarkStrategy.noWatermarks(), "log", records).uid("log-" + spec.tag);
        DataStream<LogRecord> erased = environment.fromSource(
                        erased(spec), WatermarkStrategy.noWatermarks(), "erased", records)
                .uid("erased-" + spec.tag).setParallelism(1);
        SingleOutputStreamOperator<EntityEvent> events = log.keyBy(record -> record.partition, Types.INT)
                .connect(erased.broadcast(LogPartition.ERASED))
                .process(new LogPartition(json), Types.POJO(EntityEvent.class))
                .name("partitions of " + spec.tag).uid("partitions-" + spec.tag);
        for (int kind = 0; kind < spec.entities.size(); kind++) {
            String name = spec.entities.get(kind).kind;
            DataStream<EntityRow> rows = events.getSideOutput(LogPartition.tag(name))
                    .keyBy(event -> event.key, Types.STRING)
                    .transform(name + "s of " + spec.tag, Types.POJO(EntityRow.class), new EntityOperator(json, kind))
                    .uid(name + "-" + spec.tag);
            // A sink of each kind runs in the thread of its operator, so no row is copied between threads.
            rows.sinkTo(sink(spec)).name("entities").uid((kind == 0 ? "entities-" : name + "-rows-") + spec.tag);
        }
    }

    private static KafkaSource<LogRecord> log(EntitySpec spec) {
        KafkaSourceBuilder<LogRecord> builder = source(spec, spec.topic, spec.group);
        if (spec.ends != null) {
            Map<TopicPartition, Long> ends = new HashMap<>();
            spec.ends.forEach((partition, end) -> ends.put(new TopicPartition(spec.topic, partition), end));
            builder.setBounded(OffsetsInitializer.offsets(ends));
        }
        return builder.build();
    }

    private static KafkaSource<LogRecord> erased(EntitySpec spec) {
        KafkaSourceBuilder<LogRecord> builder = source(spec, spec.erasedTopic, spec.group + "-erased");
        if (spec.ends != null) {
            builder.setBounded(OffsetsInitializer.latest());
        }
        return builder.build();
    }

    private static KafkaSourceBuilder<LogRecord> source(EntitySpec spec, String topic, String group) {
        Properties client = spec.client();
        client.setProperty("isolation.level", "read_committed");
        return KafkaSource.<LogRecord>builder()
                .setTopics(topic)
                .setGroupId(group)
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setDeserializer(new Records())
                .setProperties(client);
    }

    private static KafkaSink<EntityRow> sink(EntitySpec spec) {
        Properties client = spec.client();
        client.setProperty("acks", "all");
        client.setProperty("linger.ms", "2");
        client.setProperty("batch.size", "262144"); // fewer requests under load, and no later ones
        client.setProperty("max.request.size", String.valueOf(EntityTopics.LARGEST + 1024));
        return KafkaSink.<EntityRow>builder()
                .setBootstrapServers(spec.servers)
                .setKafkaProducerConfig(client)
                .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                .setRecordSerializer(new Rows(spec.entitiesTopic))
                .build();
    }

    private static final class Records implements KafkaRecordDeserializationSchema<LogRecord> {
        private static final long serialVersionUID = 1L;

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> message, Collector<LogRecord> out) {
            LogRecord record = new LogRecord();
            record.partition = message.partition();
            record.offset = message.offset();
            record.key = message.key();
            record.value = message.value();
            out.collect(record);
        }

        @Override
        public TypeInformation<LogRecord> getProducedType() {
            return Types.POJO(LogRecord.class);
        }
    }

    private static final class Rows implements KafkaRecordSerializationSchema<EntityRow> {
        private static final long serialVersionUID = 1L;
        private final String topic;

        Rows(String topic) {
            this.topic = topic;
        }

        @Override
        public ProducerRecord<byte[], byte[]> serialize(EntityRow row, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, row.partition, row.key, row.value);
        }
    }
}
