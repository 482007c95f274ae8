-- View, put into the cart, leave: one after the other within five minutes.
SET 'pipeline.name' = 'cep';
CREATE TABLE events (
    event_id STRING,
    user_id STRING,
    type STRING,
    `timestamp` BIGINT,
    happened AS TO_TIMESTAMP_LTZ(`timestamp`, 3),
    WATERMARK FOR happened AS happened - INTERVAL '$delay_s' SECOND
) WITH ($source);
CREATE VIEW signals AS
SELECT event_id, user_id, type, `timestamp`, happened FROM events
WHERE type IN ('view', 'add_to_cart', 'leave');
CREATE TABLE carts (
    user_id STRING, viewed STRING, added STRING, gone STRING, `start` BIGINT, `end` BIGINT
) WITH ($sink);
INSERT INTO carts
SELECT user_id, viewed, added, gone, `start`, `end`
FROM signals MATCH_RECOGNIZE (
    PARTITION BY user_id ORDER BY happened
    MEASURES
        V.event_id AS viewed, C.event_id AS added, L.event_id AS gone,
        V.`timestamp` AS `start`, L.`timestamp` AS `end`
    ONE ROW PER MATCH AFTER MATCH SKIP PAST LAST ROW
    PATTERN (V C L) WITHIN INTERVAL '5' MINUTE
    DEFINE V AS V.type = 'view', C AS C.type = 'add_to_cart', L AS L.type = 'leave'
);
