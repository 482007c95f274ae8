package tactful.flink;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/** Sessions of one cell, by start: events, none further than a gap from the next. */
final class EntitySessions extends EntityColumn {
    private final EntityLayout.Column layout;
    private final long gap;
    private List<Session> sessions = new ArrayList<>();

    EntitySessions(EntityLayout.Column layout) {
        this.layout = layout;
        gap = layout.length;
    }

    private static final class Session {
        long start;
        long last;
        Accumulator state;
    }

    @Override
    void apply(long timestamp, long watermark, long horizon, double amount, String text) {
        if (!sessions.isEmpty()) {
            Session last = sessions.get(sessions.size() - 1);
            if (last.start <= timestamp && timestamp <= last.last + gap && last.last + gap > watermark) {
                last.last = Math.max(last.last, timestamp);
                last.state.add(amount, text, timestamp);
                return;
            }
            sessions.removeIf(session -> session.last + gap <= horizon);
        }
        if (timestamp + gap <= horizon && sessions.stream()
                .noneMatch(near -> near.start - gap <= timestamp && timestamp <= near.last + gap)) {
            return; // too late
        }
        Session added = new Session();
        added.start = timestamp;
        added.last = timestamp;
        added.state = Accumulator.of(layout.fold, layout.most);
        added.state.add(amount, text, timestamp);
        merge(added);
    }

    /** Adds a session; all that touch become one, the newer merged into the older. */
    private void merge(Session added) {
        List<Session> apart = new ArrayList<>();
        for (Session session : sessions) {
            if (session.start <= added.last + gap && added.start <= session.last + gap) {
                session.state.merge(added.state);
                session.start = Math.min(session.start, added.start);
                session.last = Math.max(session.last, added.last);
                added = session;
            } else {
                apart.add(session);
            }
        }
        apart.add(added);
        apart.sort(Comparator.comparingLong(session -> session.start));
        sessions = apart;
    }

    @Override
    boolean write(MessagePack.Writer to, long horizon) {
        List<Session> kept = new ArrayList<>(sessions);
        kept.removeIf(session -> session.last + gap <= horizon);
        to.array(kept.size());
        for (Session session : kept) {
            to.array(4);
            to.integer(session.start);
            to.integer(session.last);
            to.bool(false);
            session.state.write(to);
        }
        return !kept.isEmpty();
    }

    @Override
    void read(MessagePack.Reader from) {
        for (int left = from.array(); left > 0; left--) {
            from.array();
            Session session = new Session();
            session.start = from.integer();
            session.last = from.integer();
            from.bool();
            session.state = Accumulator.of(layout.fold, layout.most, from);
            sessions.add(session);
        }
    }
}
