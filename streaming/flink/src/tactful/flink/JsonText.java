package tactful.flink;

import java.io.IOException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.table.functions.ScalarFunction;

/** Reads one field of a JSON object, with the engine's rules of what is a text and what a number. */
abstract class JsonText extends ScalarFunction {
    private static final JsonFactory FACTORY = new JsonFactory();

    /** {@code json_text(object, name)}: a string, or a whole number as text; nothing else is one. */
    public static final class Text extends JsonText {
        public String eval(String object, String name) {
            return read(object, name, field -> {
                switch (field.currentToken()) {
                    case VALUE_STRING:
                    case VALUE_NUMBER_INT:
                        return field.getText();
                    default:
                        return null;
                }
            });
        }
    }

    /** {@code json_number(object, name)}: a finite number; a number in quotes is none. */
    public static final class Number extends JsonText {
        public Double eval(String object, String name) {
            return read(object, name, field -> {
                switch (field.currentToken()) {
                    case VALUE_NUMBER_INT:
                    case VALUE_NUMBER_FLOAT:
                        double value = Double.parseDouble(field.getText());
                        return Double.isFinite(value) ? value : null;
                    default:
                        return null;
                }
            });
        }
    }

    /** {@code json_string(object, name)}: a string. */
    public static final class Str extends JsonText {
        public String eval(String object, String name) {
            return read(object, name, field -> field.currentToken() == JsonToken.VALUE_STRING ? field.getText() : null);
        }
    }

    private interface Reader<T> {
        T read(JsonParser field) throws IOException;
    }

    private static <T> T read(String object, String name, Reader<T> reader) {
        if (object == null) {
            return null;
        }
        try (JsonParser parser = FACTORY.createParser(object)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                return null;
            }
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                boolean found = parser.currentName().equals(name);
                parser.nextToken();
                if (found) {
                    return reader.read(parser);
                }
                parser.skipChildren();
            }
            return null;
        } catch (IOException broken) {
            return null; // the source gave JSON, so this cannot be
        }
    }
}
