package tactful.flink;

import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.table.functions.ScalarFunction;

/**
 * Sums of a window by pane, so that panes can be weighed by their age when the window is complete.
 *
 * <p>The weight cannot stand inside the aggregation: it depends on the end of the window, and an
 * element is counted once for all the windows that it is in.
 */
public final class Panes {
    private Panes() {}

    /** What Flink keeps of a slice; a slice is a pane, so there is mostly one entry. */
    public static final class Sums {
        public Map<Long, Double> byPane = new HashMap<>();
    }

    /** {@code pane_sums(amount, timestamp, slide)}: a map from the number of a pane to its sum. */
    @FunctionHint(output = @DataTypeHint("MAP<BIGINT, DOUBLE>"))
    public static final class Collect extends AggregateFunction<Map<Long, Double>, Sums> {
        @Override
        public Sums createAccumulator() {
            return new Sums();
        }

        public void accumulate(Sums sums, Double amount, Long timestamp, Long slide) {
            if (amount != null) {
                sums.byPane.merge(timestamp / slide, amount, Double::sum);
            }
        }

        public void merge(Sums sums, Iterable<Sums> others) {
            for (Sums other : others) {
                other.byPane.forEach((pane, sum) -> sums.byPane.merge(pane, sum, Double::sum));
            }
        }

        @Override
        public Map<Long, Double> getValue(Sums sums) {
            return sums.byPane;
        }
    }

    /**
     * {@code decayed(sums, end, slide, decay)}: a pane that is k slides old counts decay^k.
     *
     * <p>{@code decayed(sums, decay)} counts from the newest pane of the map: of a mean, whose count
     * is then at least 1.
     */
    public static final class Decayed extends ScalarFunction {
        public Double eval(
                @DataTypeHint("MAP<BIGINT, DOUBLE>") Map<Long, Double> sums, Long end, Long slide, Double decay) {
            return add(new TreeMap<>(sums), end / slide - 1, decay);
        }

        public Double eval(@DataTypeHint("MAP<BIGINT, DOUBLE>") Map<Long, Double> sums, Double decay) {
            TreeMap<Long, Double> ordered = new TreeMap<>(sums);
            return ordered.isEmpty() ? null : (Double) add(ordered, ordered.lastKey(), decay);
        }

        /** Each weight is applied as two factors, as it may be too small for a double. */
        private static double add(TreeMap<Long, Double> sums, long newest, double decay) {
            double total = 0;
            for (Map.Entry<Long, Double> pane : sums.entrySet()) {
                long age = newest - pane.getKey();
                total += pane.getValue() * Math.pow(decay, age / 2) * Math.pow(decay, age - age / 2);
            }
            return total;
        }
    }
}
