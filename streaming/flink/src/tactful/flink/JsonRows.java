package tactful.flink;

import java.io.IOException;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.util.List;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonGenerator;
import org.apache.flink.table.functions.ScalarFunction;

/** Rows whose value is a list of pairs, which Flink's own JSON format cannot write. */
final class JsonRows {
    private static final JsonFactory FACTORY = new JsonFactory();

    private JsonRows() {}

    /** {@code list_row(feature, entity_key, window_start, window_end, list)}: a row as JSON. */
    public static final class ListRow extends ScalarFunction {
        public String eval(String feature, String entityKey, Long windowStart, Long windowEnd, String list) {
            return write(json -> {
                json.writeStartObject();
                json.writeStringField("feature", feature);
                json.writeStringField("entity_key", entityKey);
                json.writeNumberField("window_start", windowStart);
                json.writeNumberField("window_end", windowEnd);
                json.writeFieldName("feature_value");
                json.writeRawValue(list);
                json.writeEndObject();
            });
        }
    }

    /** Pairs of a text and a number as a list of lists. */
    static String pairs(List<String> texts, List<? extends Number> numbers) {
        return write(json -> {
            json.writeStartArray();
            for (int place = 0; place < texts.size(); place++) {
                json.writeStartArray();
                json.writeString(texts.get(place));
                Number number = numbers.get(place);
                if (number instanceof Long) {
                    json.writeNumber(number.longValue());
                } else {
                    json.writeNumber(number.doubleValue());
                }
                json.writeEndArray();
            }
            json.writeEndArray();
        });
    }

    private interface Writer {
        void write(JsonGenerator json) throws IOException;
    }

    private static String write(Writer writer) {
        StringWriter text = new StringWriter();
        try (JsonGenerator json = FACTORY.createGenerator(text)) {
            writer.write(json);
        } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
        }
        return text.toString();
    }
}
