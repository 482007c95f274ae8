package tactful.flink;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.DeserializationFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.JsonNodeFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * Edits a plan that Flink has compiled to JSON, in two things that SQL cannot say.
 *
 * <p>The state of each OVER aggregation gets a lifetime of its own, by the function in it. In SQL a
 * job has one for all.
 *
 * <p>Each operator is numbered by what it computes, and from what: Flink names its state after this
 * number. The state of an operator is therefore found again as long as its own part of the
 * definitions is the same, whatever is added, removed or changed beside it, and never by another.
 * Flink itself numbers operators in the order in which a JVM has compiled them.
 */
final class JobPlan {
    private static final ObjectMapper JSON = new ObjectMapper()
            .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
            .setNodeFactory(JsonNodeFactory.withExactBigDecimals(true));
    private static final String TTL = "table.exec.state.ttl";
    private static final Pattern BUILT_IN = Pattern.compile("\\$(\\w+)\\$\\d+"); // `$COUNT$1`
    private static final Pattern CORRELATION = Pattern.compile("\\$cor\\d+"); // counted over all of a script
    private static final String SOURCE = "stream-exec-table-source-scan";

    private JobPlan() {}

    /** The plan with the lifetimes of {@code ttls}, as texts of Flink by a function's name in small letters. */
    static String edited(String plan, Map<String, String> ttls) throws JsonProcessingException {
        JsonNode root = JSON.readTree(plan);
        Set<String> unused = new HashSet<>(ttls.keySet());
        for (JsonNode node : root.get("nodes")) {
            for (JsonNode group : node.path("overSpec").path("groups")) {
                for (JsonNode call : group.get("aggCalls")) {
                    String ttl = ttls.get(function(call));
                    if (ttl != null) {
                        ((ObjectNode) node).withObject("/configuration").put(TTL, ttl);
                        unused.remove(function(call));
                    }
                }
            }
        }
        if (!unused.isEmpty()) {
            throw new IllegalArgumentException("no OVER aggregation has " + unused + ", whose state has a lifetime");
        }
        number(root);
        return JSON.writeValueAsString(root);
    }

    private static String function(JsonNode call) {
        String name = call.path("systemName").asText(call.path("internalName").asText());
        Matcher builtIn = BUILT_IN.matcher(name);
        return (builtIn.matches() ? builtIn.group(1) : name).toLowerCase(Locale.ROOT);
    }

    private static void number(JsonNode root) {
        Map<Integer, List<Integer>> inputs = new HashMap<>();
        for (JsonNode edge : root.get("edges")) {
            inputs.computeIfAbsent(edge.get("target").asInt(), unused -> new ArrayList<>())
                    .add(edge.get("source").asInt());
        }
        Map<Integer, Integer> numbers = new HashMap<>();
        Set<Integer> taken = new HashSet<>();
        for (JsonNode node : root.get("nodes")) { // inputs come first
            StringBuilder content = new StringBuilder(node.get("type").asText());
            // Neither watermark nor offsets of a source change what its state means.
            if (!node.get("type").asText().startsWith(SOURCE)) {
                content.append(CORRELATION.matcher(node.get("description").asText()).replaceAll("\\$cor"));
            }
            int before = node.get("id").asInt();
            for (Integer input : inputs.getOrDefault(before, List.of())) {
                content.append('\0').append(numbers.get(input).intValue());
            }
            int number = hash(content.toString());
            while (!taken.add(number)) {
                number = number == Integer.MAX_VALUE ? 1 : number + 1;
            }
            numbers.put(before, number);
            ((ObjectNode) node).put("id", number);
        }
        for (JsonNode edge : root.get("edges")) {
            ((ObjectNode) edge).put("source", numbers.get(edge.get("source").asInt()));
            ((ObjectNode) edge).put("target", numbers.get(edge.get("target").asInt()));
        }
    }

    private static int hash(String text) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
            int number = 0;
            for (int place = 0; place < Integer.BYTES; place++) {
                number = number << 8 | digest[place] & 0xff;
            }
            return Math.max(1, number & Integer.MAX_VALUE);
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible);
        }
    }
}
