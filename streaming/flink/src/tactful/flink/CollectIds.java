package tactful.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.functions.AggregateFunction;

/** {@code collect_ids(id, wanted)}: the wanted ids, in their order. */
@FunctionHint(output = @DataTypeHint("ARRAY<STRING>"))
public final class CollectIds extends AggregateFunction<String[], CollectIds.Ids> {
    /** The ids so far. */
    public static final class Ids {
        public List<String> wanted = new ArrayList<>();
    }

    @Override
    public Ids createAccumulator() {
        return new Ids();
    }

    public void accumulate(Ids ids, String id, Boolean wanted) {
        if (id != null && Boolean.TRUE.equals(wanted)) {
            ids.wanted.add(id);
        }
    }

    @Override
    public String[] getValue(Ids ids) {
        return ids.wanted.toArray(new String[0]);
    }
}
