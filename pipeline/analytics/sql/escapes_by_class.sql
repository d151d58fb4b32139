-- escapes_by_class: defects that are caught and that escape, by class, estimated from labels
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param z number(0.1..10) = 1.959963984540054: width of the intervals in standard errors; 1.96 is 95 %
-- column site: the plant
-- column line: its line
-- column label_class: the true class of the parts
-- column labelled: inspected parts with this label
-- column caught: estimate of those rejected or sent to manual inspection
-- column escapes: estimate of those that passed
-- column recall: caught of all
-- column recall_low: from Wilson's interval of the escapes; the caught parts are taken as known
-- column recall_high: likewise
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(outcome) AS outcome
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND outcome <> 'unknown'
  GROUP BY site, line, camera, boot_epoch, seq
), l AS (
  SELECT site, line, camera, boot_epoch, seq, max_by(is_defect, labelled_at) AS is_defect,
    max_by(COALESCE(label_class, 'not named'), labelled_at) AS label_class, MAX(sample_rate) AS sample_rate
  FROM labels
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND is_defect IS NOT NULL
  GROUP BY site, line, camera, boot_epoch, seq
), joined AS (
  SELECT v.site, v.line, v.outcome, CASE WHEN l.is_defect THEN l.label_class END AS label_class,
    CASE WHEN l.is_defect IS NULL THEN 'none' WHEN v.outcome <> 'ok' THEN v.outcome
      WHEN l.sample_rate > 0 THEN 'sample' ELSE 'none' END AS label,
    1e0 / l.sample_rate AS weight
  FROM v
  LEFT JOIN l ON l.site = v.site AND l.line = v.line AND l.camera = v.camera AND l.boot_epoch = v.boot_epoch
    AND l.seq = v.seq AND l.label_class <> 'exclude'
), lines AS (
  SELECT site, line, CAST(COUNT_IF(outcome = 'ok') AS double) AS whole,
    CAST(COUNT_IF(outcome = 'defect') AS double) / NULLIF(COUNT_IF(label = 'defect'), 0) AS per_rejected,
    CAST(COUNT_IF(outcome = 'unsure') AS double) / NULLIF(COUNT_IF(label = 'unsure'), 0) AS per_unsure,
    SUM(CASE WHEN label = 'sample' THEN weight END) AS w,
    SUM(CASE WHEN label = 'sample' THEN weight * weight END) AS ww
  FROM joined
  GROUP BY site, line
), classes AS (
  SELECT site, line, label_class, COUNT(*) AS labelled, COUNT_IF(label = 'defect') AS rejected,
    COUNT_IF(label = 'unsure') AS unsure,
    SUM(CASE WHEN label = 'sample' THEN weight ELSE 0e0 END) AS wy
  FROM joined
  WHERE label_class IS NOT NULL AND label <> 'none'
  GROUP BY site, line, label_class
), shares AS (
  SELECT c.site, c.line, c.label_class, c.labelled, n.whole, n.w * n.w / n.ww AS n, c.wy / n.w AS p,
    c.wy / n.w * (n.w * n.w / n.ww) AS k, :z * :z AS zz,
    c.rejected * COALESCE(n.per_rejected, 0e0) + c.unsure * COALESCE(n.per_unsure, 0e0) AS caught
  FROM classes AS c
  JOIN lines AS n ON n.site = c.site AND n.line = c.line
), bounds AS (
  SELECT *, whole * p AS escapes,
    whole * CASE WHEN k <= 0 THEN 0e0
      ELSE (k + zz / 2) / (n + zz) - :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS escapes_low,
    whole * CASE WHEN k >= n THEN 1e0
      ELSE (k + zz / 2) / (n + zz) + :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS escapes_high
  FROM shares
)
SELECT site, line, label_class, labelled, caught, escapes, caught / NULLIF(caught + escapes, 0e0) AS recall,
  CASE WHEN n IS NULL THEN NULL ELSE caught / NULLIF(caught + escapes_high, 0e0) END AS recall_low,
  CASE WHEN n IS NULL THEN NULL ELSE caught / NULLIF(caught + escapes_low, 0e0) END AS recall_high
FROM bounds
ORDER BY site, line, labelled DESC, label_class
