package tactful.flink;

import java.io.IOException;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;

/** A record of the log, as far as it is read, and as strictly checked as by the engine. */
final class LogEntry {
    private static final JsonFactory JSON = new JsonFactory();
    private static final long LATEST = 32_503_680_000_000L; // the year 3000
    private static final BigInteger TOO_LARGE = BigInteger.ONE.shiftLeft(1023);
    private static final Set<String> TEXTS = Set.of(
            "kind", "event_id", "type", "sender", "user_id", "device_id", "session_id", "item_id", "title", "category");
    private static final Set<String> OTHERS = Set.of("timestamp", "received_at", "price", "available");

    final Map<String, Object> fields = new HashMap<>();
    final Map<String, Object> properties = new HashMap<>();
    LogEntry event; // of a restricted entry
    List<Object> purposes; // of a restricted entry

    /** A record that is no entry of the log. */
    static final class Invalid extends Exception {
        private static final long serialVersionUID = 1L;

        Invalid() {
            super(null, null, false, false);
        }
    }

    /** Reads a record; {@code wanted} are the properties that are read. */
    static LogEntry of(byte[] record, Set<String> wanted) throws Invalid {
        if (record == null || record.length == 0 || record[0] != '{') {
            throw new Invalid();
        }
        try (JsonParser parser = JSON.createParser(record)) {
            parser.nextToken();
            LogEntry entry = new LogEntry();
            entry.read(parser, wanted);
            if (parser.nextToken() != null) {
                throw new Invalid();
            }
            return entry;
        } catch (IOException broken) {
            throw new Invalid();
        }
    }

    String text(String name) {
        return (String) fields.get(name);
    }

    String kind() throws Invalid {
        return required("kind");
    }

    String required(String name) throws Invalid {
        Object value = fields.get(name);
        if (value instanceof String) {
            return (String) value;
        }
        throw new Invalid();
    }

    long timestamp() throws Invalid {
        return time("timestamp");
    }

    /** The time of receipt; -1 without one. */
    long receivedAt() throws Invalid {
        return fields.get("received_at") == null ? -1 : time("received_at");
    }

    private long time(String name) throws Invalid {
        Object value = fields.get(name);
        if (value instanceof Long && (Long) value >= 0 && (Long) value <= LATEST) {
            return (Long) value;
        }
        throw new Invalid();
    }

    /** A property as a group or value; null unless it is a text or a whole number. */
    static String asText(Object value) {
        return value instanceof String || value instanceof Long || value instanceof BigInteger
                ? value.toString()
                : null;
    }

    /** A property as an amount; NaN unless it is a finite number. */
    static double asAmount(Object value) {
        if (value instanceof Double || value instanceof Long) {
            return ((Number) value).doubleValue();
        }
        if (value instanceof BigInteger && ((BigInteger) value).abs().compareTo(TOO_LARGE) < 0) {
            return Double.parseDouble(value.toString());
        }
        return Double.NaN;
    }

    private void read(JsonParser parser, Set<String> wanted) throws IOException, Invalid {
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            parser.nextToken();
            if (TEXTS.contains(name)) {
                fields.put(name, scalar(parser));
            } else if (OTHERS.contains(name)) {
                fields.put(name, scalar(parser));
            } else if (name.equals("properties")) {
                readProperties(parser, wanted);
            } else if (name.equals("event") && parser.currentToken() == JsonToken.START_OBJECT) {
                event = new LogEntry();
                event.read(parser, wanted);
            } else if (name.equals("purposes") && parser.currentToken() == JsonToken.START_ARRAY) {
                purposes = list(parser);
            } else {
                parser.skipChildren();
            }
        }
        if (parser.currentToken() != JsonToken.END_OBJECT) {
            throw new Invalid();
        }
    }

    private void readProperties(JsonParser parser, Set<String> wanted) throws IOException, Invalid {
        if (parser.currentToken() != JsonToken.START_OBJECT) {
            throw new Invalid();
        }
        properties.clear();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            String name = parser.currentName();
            parser.nextToken();
            if (!wanted.contains(name)) {
                parser.skipChildren();
            } else if (parser.currentToken() == JsonToken.START_ARRAY) {
                properties.put(name, list(parser));
            } else {
                properties.put(name, scalar(parser));
            }
        }
    }

    private static List<Object> list(JsonParser parser) throws IOException, Invalid {
        List<Object> values = new ArrayList<>();
        while (parser.nextToken() != JsonToken.END_ARRAY) {
            values.add(scalar(parser));
        }
        return values;
    }

    private static Object scalar(JsonParser parser) throws IOException, Invalid {
        switch (parser.currentToken()) {
            case VALUE_STRING:
                return whole(parser.getText());
            case VALUE_NUMBER_INT:
                return parser.getNumberType() == JsonParser.NumberType.BIG_INTEGER
                        ? parser.getBigIntegerValue()
                        : (Object) parser.getLongValue();
            case VALUE_NUMBER_FLOAT:
                double number = Double.parseDouble(parser.getText());
                if (Double.isInfinite(number)) {
                    throw new Invalid();
                }
                return number;
            case VALUE_TRUE:
                return Boolean.TRUE;
            case VALUE_FALSE:
                return Boolean.FALSE;
            case VALUE_NULL:
                return null;
            default:
                throw new Invalid();
        }
    }

    /** The text, unless it holds half a pair of surrogates, which no UTF-8 can. */
    private static String whole(String text) throws Invalid {
        for (int place = 0; place < text.length(); place++) {
            char one = text.charAt(place);
            if (Character.isHighSurrogate(one) && place + 1 < text.length()
                    && Character.isLowSurrogate(text.charAt(place + 1))) {
                place++;
            } else if (Character.isSurrogate(one)) {
                throw new Invalid();
            }
        }
        return text;
    }
}
