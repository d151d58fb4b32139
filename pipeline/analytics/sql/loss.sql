-- loss: lost frames and verdicts, by camera and run of the agent
-- version: 2
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- column site: the plant
-- column line: its line
-- column thing: the device
-- column camera: the camera
-- column boot_epoch: the agent's run
-- column first_at: first verdict, UTC
-- column last_at: last verdict, UTC
-- column frames: numbers from the first to the last verdict that arrived, both included
-- column arrived: verdicts here, each once
-- column missing: frames - arrived
-- column dropped: frames that the device dropped before inspection, from its heartbeats
-- column lost: verdicts that the device lost, from its gap messages
-- column unexplained: missing verdicts that neither accounts for; investigate anything above 0
-- column twice: rows that arrived more than once
-- column missing_share: missing / frames
WITH raw AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(thing) AS thing, arbitrary(captured_at) AS captured_at,
    COUNT(*) AS copies
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
  GROUP BY site, line, camera, boot_epoch, seq
), v AS (
  SELECT site, line, thing, camera, boot_epoch, MIN(captured_at) AS first_at, MAX(captured_at) AS last_at,
    MAX(seq) - MIN(seq) + 1 AS frames, COUNT(*) AS arrived, CAST(SUM(copies) AS bigint) - COUNT(*) AS twice
  FROM raw
  GROUP BY site, line, thing, camera, boot_epoch
), h AS (
  SELECT site, line, thing, camera, boot_epoch,
    MAX(dropped) - CASE WHEN date_add('second', -CAST(MIN(uptime_s) AS integer), MIN(sent_at))
      >= CAST(:first_day AS timestamp) THEN 0 ELSE MIN(dropped) END AS dropped
  FROM heartbeats
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
  GROUP BY site, line, thing, camera, boot_epoch
), gap_messages AS (
  SELECT DISTINCT site, line, thing, camera, boot_epoch, lost_at, first_seq, last_seq, lost
  FROM gaps
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
), g AS (
  SELECT site, line, thing, camera, boot_epoch, CAST(SUM(lost) AS bigint) AS lost
  FROM gap_messages
  GROUP BY site, line, thing, camera, boot_epoch
)
SELECT v.site, v.line, v.thing, v.camera, v.boot_epoch, v.first_at, v.last_at, v.frames, v.arrived,
  v.frames - v.arrived AS missing, COALESCE(h.dropped, 0) AS dropped, COALESCE(g.lost, 0) AS lost,
  CASE WHEN v.frames - v.arrived > COALESCE(h.dropped, 0) + COALESCE(g.lost, 0)
    THEN v.frames - v.arrived - COALESCE(h.dropped, 0) - COALESCE(g.lost, 0) ELSE 0 END AS unexplained,
  v.twice, CAST(v.frames - v.arrived AS double) / v.frames AS missing_share
FROM v
LEFT JOIN h ON h.site = v.site AND h.line = v.line AND h.thing = v.thing AND h.camera = v.camera
  AND h.boot_epoch = v.boot_epoch
LEFT JOIN g ON g.site = v.site AND g.line = v.line AND g.thing = v.thing AND g.camera = v.camera
  AND g.boot_epoch = v.boot_epoch
ORDER BY v.site, v.line, v.thing, v.camera, v.boot_epoch
