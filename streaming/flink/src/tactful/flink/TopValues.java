package tactful.flink;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.types.Row;

/** The most frequent values of a window, whose panes may weigh less the older they are. */
public final class TopValues {
    private static final char SEPARATOR = '|'; // between the number of a pane and a text

    private TopValues() {}

    /** How often each text came in each pane. */
    public static final class Counts {
        public Map<String, Long> byPaneAndText = new HashMap<>();
    }

    /** {@code pane_counts(text, timestamp, slide)}: a map from pane and text to a count. */
    @FunctionHint(output = @DataTypeHint("MAP<STRING, BIGINT>"))
    public static final class Collect extends AggregateFunction<Map<String, Long>, Counts> {
        @Override
        public Counts createAccumulator() {
            return new Counts();
        }

        public void accumulate(Counts counts, String text, Long timestamp, Long slide) {
            if (text != null) {
                counts.byPaneAndText.merge(timestamp / slide + String.valueOf(SEPARATOR) + text, 1L, Long::sum);
            }
        }

        public void merge(Counts counts, Iterable<Counts> others) {
            for (Counts other : others) {
                other.byPaneAndText.forEach((key, count) -> counts.byPaneAndText.merge(key, count, Long::sum));
            }
        }

        @Override
        public Map<String, Long> getValue(Counts counts) {
            return counts.byPaneAndText;
        }
    }

    /**
     * {@code top_values(counts, end, slide, decay, n)}: the n texts of most weight and their weights;
     * of equals the one that comes first in the order of code points.
     */
    public static final class Top extends ScalarFunction {
        @DataTypeHint("ARRAY<ROW<`value` STRING, weight DOUBLE>>")
        public Row[] eval(
                @DataTypeHint("MAP<STRING, BIGINT>") Map<String, Long> counts,
                Long end, Long slide, Double decay, Integer n) {
            long newest = end / slide - 1;
            Map<String, Double> weights = new HashMap<>();
            for (Map.Entry<String, Long> entry : counts.entrySet()) {
                int separator = entry.getKey().indexOf(SEPARATOR);
                long pane = Long.parseLong(entry.getKey().substring(0, separator));
                double weight = decay == 1 ? 1 : Math.pow(decay, newest - pane);
                weights.merge(entry.getKey().substring(separator + 1), weight * entry.getValue(), Double::sum);
            }
            List<String> texts = new ArrayList<>(weights.keySet());
            texts.sort(Comparator.<String, Double>comparing(weights::get).reversed().thenComparing(Top::compare));
            return texts.stream().limit(n).map(text -> Row.of(text, weights.get(text))).toArray(Row[]::new);
        }

        /** Java's own order of strings is another one where UTF-16 needs surrogates. */
        private static int compare(String left, String right) {
            return Arrays.compare(left.codePoints().toArray(), right.codePoints().toArray());
        }
    }
}
