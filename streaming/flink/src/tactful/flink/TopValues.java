package tactful.flink;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code top_values(text, n)}: the n most frequent texts and how often each came; of equals the one
 * that comes first in the order of code points. As the JSON of a list of pairs.
 */
public final class TopValues extends AggregateFunction<String, TopValues.Counts> {
    /** How often each text came. */
    public static final class Counts {
        public Map<String, Long> byText = new HashMap<>();
        public int n;
    }

    @Override
    public Counts createAccumulator() {
        return new Counts();
    }

    public void accumulate(Counts counts, String text, Integer n) {
        counts.n = n;
        if (text != null) {
            counts.byText.merge(text, 1L, Long::sum);
        }
    }

    public void merge(Counts counts, Iterable<Counts> others) {
        for (Counts other : others) {
            counts.n = Math.max(counts.n, other.n);
            other.byText.forEach((text, count) -> counts.byText.merge(text, count, Long::sum));
        }
    }

    @Override
    public String getValue(Counts counts) {
        List<String> texts = new ArrayList<>(counts.byText.keySet());
        texts.sort(Comparator.<String, Long>comparing(counts.byText::get)
                .reversed()
                .thenComparing(TopValues::compare));
        List<String> top = texts.subList(0, Math.min(counts.n, texts.size()));
        return JsonRows.pairs(
                top, top.stream().map(text -> (double) counts.byText.get(text)).collect(Collectors.toList()));
    }

    /** Java's own order of strings is another one where UTF-16 needs surrogates. */
    private static int compare(String left, String right) {
        return Arrays.compare(left.codePoints().toArray(), right.codePoints().toArray());
    }
}
