-- camera_drift: whether the scores of one camera have drifted while those of the others have not
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param reference_days whole(1..60) = 3: first days of a version on a line: the reference for its later days
-- param bins whole(2..100) = 10: of equal width over scores from 0 to 1
-- param changed number(0.01..10) = 0.25: index from which on scores count as changed
-- column site: the plant
-- column line: its line
-- column thing: the device of the camera; the newest one where it moved
-- column camera: the camera
-- column model_version: the model
-- column date: UTC day
-- column parts: inspected on that day
-- column psi: population stability index of the camera's scores against its own reference, counts smoothed by 0.5
-- column others_psi: mean index of the line's other cameras with the same model on the same day
-- column fps: mean of the camera's heartbeats
-- column not_running_share: share of its heartbeats with another state than running
-- column finding: camera (only this one changed), line (the others changed too: light, material or model) or steady
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(captured_at) AS captured_at, arbitrary(score) AS score,
    arbitrary(model_version) AS model_version
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
    AND outcome <> 'unknown' AND model_version IS NOT NULL AND COALESCE(arm, 'champion') = 'champion'
  GROUP BY site, line, camera, boot_epoch, seq
), binned AS (
  SELECT site, line, camera, model_version, CAST(captured_at AS date) AS date,
    CASE WHEN score >= 1 THEN :bins - 1 ELSE CAST(floor(score * :bins) AS bigint) END AS bin, COUNT(*) AS parts
  FROM v
  GROUP BY site, line, camera, model_version, CAST(captured_at AS date),
    CASE WHEN score >= 1 THEN :bins - 1 ELSE CAST(floor(score * :bins) AS bigint) END
), placed AS (
  SELECT *, MIN(date) OVER (PARTITION BY site, line, model_version) AS began FROM binned
), reference AS (
  SELECT site, line, camera, model_version, bin, SUM(parts) AS parts
  FROM placed
  WHERE date < date_add('day', :reference_days, began)
  GROUP BY site, line, camera, model_version, bin
), reference_whole AS (
  SELECT site, line, camera, model_version, SUM(parts) AS parts
  FROM reference
  GROUP BY site, line, camera, model_version
), days AS (
  SELECT site, line, camera, model_version, date, SUM(parts) AS parts
  FROM placed
  WHERE date >= date_add('day', :reference_days, began)
  GROUP BY site, line, camera, model_version, date
), cells AS (
  SELECT d.site, d.line, d.camera, d.model_version, d.date, d.parts AS day_parts,
    (COALESCE(r.parts, 0) + 0.5e0) / (w.parts + 0.5e0 * :bins) AS p,
    (COALESCE(b.parts, 0) + 0.5e0) / (d.parts + 0.5e0 * :bins) AS q
  FROM days AS d
  JOIN reference_whole AS w ON w.site = d.site AND w.line = d.line AND w.camera = d.camera
    AND w.model_version = d.model_version
  CROSS JOIN UNNEST(sequence(0, :bins - 1)) AS n(bin)
  LEFT JOIN reference AS r ON r.site = d.site AND r.line = d.line AND r.camera = d.camera
    AND r.model_version = d.model_version AND r.bin = n.bin
  LEFT JOIN binned AS b ON b.site = d.site AND b.line = d.line AND b.camera = d.camera
    AND b.model_version = d.model_version AND b.date = d.date AND b.bin = n.bin
), own AS (
  SELECT site, line, camera, model_version, date, MAX(day_parts) AS parts, SUM((q - p) * ln(q / p)) AS psi
  FROM cells
  GROUP BY site, line, camera, model_version, date
), beside AS (
  SELECT *, (SUM(psi) OVER (PARTITION BY site, line, model_version, date) - psi)
      / NULLIF(COUNT(*) OVER (PARTITION BY site, line, model_version, date) - 1, 0) AS others_psi
  FROM own
), devices AS (
  SELECT site, line, camera, max_by(thing, captured_at) AS thing
  FROM verdicts
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
  GROUP BY site, line, camera
), h AS (
  SELECT site, line, camera, CAST(sent_at AS date) AS date, AVG(fps) AS fps,
    CAST(COUNT_IF(state <> 'running') AS double) / COUNT(*) AS not_running_share
  FROM heartbeats
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
  GROUP BY site, line, camera, CAST(sent_at AS date)
)
SELECT b.site, b.line, d.thing, b.camera, b.model_version, b.date, CAST(b.parts AS bigint) AS parts, b.psi,
  b.others_psi, h.fps, h.not_running_share,
  CASE WHEN b.psi < :changed THEN 'steady' WHEN COALESCE(b.others_psi, 0e0) < :changed THEN 'camera' ELSE 'line' END
    AS finding
FROM beside AS b
LEFT JOIN h ON h.site = b.site AND h.line = b.line AND h.camera = b.camera AND h.date = b.date
LEFT JOIN devices AS d ON d.site = b.site AND d.line = b.line AND d.camera = b.camera
ORDER BY b.site, b.line, d.thing, b.camera, b.date, b.model_version
