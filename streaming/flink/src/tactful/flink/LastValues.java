package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code last_values(text, timestamp, n)}: the n newest texts, newest first, each with its timestamp;
 * of equally new ones the later. As the JSON of a list of pairs.
 */
public final class LastValues extends AggregateFunction<String, LastValues.Newest> {
    /** Texts and their timestamps, newest first. */
    public static final class Newest {
        public List<String> texts = new ArrayList<>();
        public List<Long> timestamps = new ArrayList<>();
    }

    @Override
    public Newest createAccumulator() {
        return new Newest();
    }

    public void accumulate(Newest newest, String text, Long timestamp, Integer n) {
        if (text == null) {
            return;
        }
        int place = 0;
        while (place < newest.texts.size() && newest.timestamps.get(place) > timestamp) {
            place++;
        }
        newest.texts.add(place, text);
        newest.timestamps.add(place, timestamp);
        if (newest.texts.size() > n) {
            newest.texts.remove((int) n);
            newest.timestamps.remove((int) n);
        }
    }

    @Override
    public String getValue(Newest newest) {
        return JsonRows.pairs(newest.texts, newest.timestamps);
    }
}
