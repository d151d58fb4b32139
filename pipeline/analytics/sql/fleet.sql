-- fleet: the last known state of every camera
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- column site: the plant
-- column line: its line
-- column thing: the device
-- column camera: the camera
-- column last_seen: its last heartbeat, UTC
-- column state: of the camera
-- column fps: of the camera
-- column agent_version: of the agent
-- column model: name/version of the inspection's model
-- column model_state: of its lifecycle
-- column alarm: why the model needs attention
-- column latency_p99_us: of the device
-- column temperature_c: of the device
-- column waiting: verdicts in the device's outbox
WITH placed AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY site, line, thing, camera ORDER BY sent_at DESC) AS place
  FROM heartbeats
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
)
SELECT site, line, thing, camera, sent_at AS last_seen, state, fps, agent_version,
  concat(model_name, '/', model_version) AS model, model_state, alarm, latency_p99_us, temperature_c,
  outbox_verdicts AS waiting
FROM placed
WHERE place = 1
ORDER BY site, line, thing, camera
