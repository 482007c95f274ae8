package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.types.Row;

/** {@code last_values(text, timestamp, n)}: the n newest texts, newest first; of equals the later. */
@FunctionHint(output = @DataTypeHint("ARRAY<ROW<`value` STRING, weight DOUBLE>>"))
public final class LastValues extends AggregateFunction<Row[], LastValues.Newest> {
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
    public Row[] getValue(Newest newest) {
        Row[] rows = new Row[newest.texts.size()];
        for (int place = 0; place < rows.length; place++) {
            rows[place] = Row.of(newest.texts.get(place), (double) newest.timestamps.get(place));
        }
        return rows;
    }
}
