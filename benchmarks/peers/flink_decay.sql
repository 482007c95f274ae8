-- Decayed count of each user and category, 5 minutes every minute. The tumbling panes first, then
-- windows over them: Flink keeps its two-phase plan and adds five numbers instead of every event.
SET 'pipeline.name' = 'decay';
CREATE TABLE events (
    user_id STRING,
    `timestamp` BIGINT,
    properties ROW<category STRING>,
    happened AS TO_TIMESTAMP_LTZ(`timestamp`, 3),
    WATERMARK FOR happened AS happened - INTERVAL '$delay_s' SECOND
) WITH ($source);
CREATE TABLE scores (
    user_id STRING, category STRING, window_end TIMESTAMP_LTZ(3), feature_value DOUBLE,
    PRIMARY KEY (user_id, category) NOT ENFORCED
) WITH ($sink);
CREATE VIEW panes AS
SELECT user_id, properties.category AS category, window_time AS pane, COUNT(*) AS events
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(happened), INTERVAL '1' MINUTE))
GROUP BY user_id, properties.category, window_start, window_end, window_time;
INSERT INTO scores
SELECT user_id, category, window_end,
    SUM(events * POWER(CAST(0.8 AS DOUBLE),
        CAST(TIMESTAMPDIFF(MINUTE, CAST(pane AS TIMESTAMP(3)), window_end) AS INT)))
FROM TABLE(HOP(TABLE panes, DESCRIPTOR(pane), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY user_id, category, window_start, window_end;
