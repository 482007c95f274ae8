package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;
import org.apache.flink.types.Row;

/**
 * {@code item_versions(kind, timestamp, category, price, title, properties)} over the entries about
 * one item in the order of the log: for an event, the item as it was described when the event
 * happened, among the descriptions that have come so far, and the newest category.
 */
@FunctionHint(output = @DataTypeHint("ROW<newest_category STRING, category STRING, price DOUBLE, title STRING, properties STRING>"))
public final class ItemVersions extends AggregateFunction<Row, ItemVersions.Versions> {
    private static final int MOST = 8;

    /** Descriptions in the order of their timestamps, and the time that is asked for. */
    public static final class Versions {
        public List<Version> known = new ArrayList<>();
        public long at = -1;
    }

    /** One description. */
    public static final class Version {
        public long timestamp;
        public String category;
        public Double price;
        public String title;
        public String properties;
    }

    @Override
    public Versions createAccumulator() {
        return new Versions();
    }

    public void accumulate(
            Versions versions, String kind, Long timestamp, String category, Double price, String title,
            String properties) {
        versions.at = timestamp;
        if (!"item".equals(kind)) {
            return;
        }
        Version version = new Version();
        version.timestamp = timestamp;
        version.category = category;
        version.price = price;
        version.title = title;
        version.properties = properties;
        int place = versions.known.size();
        while (place > 0 && versions.known.get(place - 1).timestamp > timestamp) {
            place--;
        }
        versions.known.add(place, version);
        if (versions.known.size() > MOST) {
            versions.known.remove(0);
        }
    }

    @Override
    public Row getValue(Versions versions) {
        int count = versions.known.size();
        int place = count - 1;
        while (place >= 0 && versions.known.get(place).timestamp > versions.at) {
            place--;
        }
        Version held = place < 0 ? new Version() : versions.known.get(place);
        String newest = count == 0 ? null : versions.known.get(count - 1).category;
        return Row.of(newest, held.category, held.price, held.title, held.properties);
    }
}
