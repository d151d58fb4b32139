-- escapes: bad parts that passed and good parts that were rejected, estimated from labels
-- version: 1
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- param z number(0.1..10) = 1.959963984540054: width of the intervals in standard errors; 1.96 is 95 %
-- column site: the plant
-- column line: its line
-- column model_version: the model that inspected them
-- column parts: inspected, without unknown
-- column passed: of them ok
-- column rejected: of them defect
-- column unsure: of them sent to manual inspection
-- column labelled_passed: labelled parts of the random sample of the passed; no other labels are used
-- column labelled_rejected: of the rejected with a label
-- column labelled_unsure: of the unsure with a label
-- column escapes: estimate of bad parts among the passed; the sample is weighted by 1 / its rate
-- column escapes_low: Wilson's interval with the sample's effective size (Kish), times the passed
-- column escapes_high: likewise
-- column escape_ppm: escapes of a million passed parts
-- column escape_rate: escapes of all bad parts
-- column escape_rate_low: from the interval of the escapes; the caught parts are taken as known
-- column escape_rate_high: likewise
-- column false_rejects: estimate of good parts among the rejected
-- column false_rejects_low: Wilson's interval, times the rejected
-- column false_rejects_high: likewise
-- column false_reject_rate: false rejects of all good parts
-- column false_reject_rate_low: from the interval of the false rejects; the good parts are taken as known
-- column false_reject_rate_high: likewise
WITH v AS (
  SELECT site, line, camera, boot_epoch, seq, arbitrary(outcome) AS outcome,
    COALESCE(arbitrary(model_version), 'none') AS model_version
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
  SELECT v.site, v.line, v.model_version, v.outcome, CASE WHEN l.is_defect THEN 1e0 ELSE 0e0 END AS bad,
    CASE WHEN l.is_defect IS NULL THEN 'none' WHEN v.outcome <> 'ok' THEN v.outcome
      WHEN l.sample_rate > 0 THEN 'sample' ELSE 'none' END AS label,
    1e0 / l.sample_rate AS weight
  FROM v
  LEFT JOIN l ON l.site = v.site AND l.line = v.line AND l.camera = v.camera AND l.boot_epoch = v.boot_epoch
    AND l.seq = v.seq AND l.label_class <> 'exclude'
), counted AS (
  SELECT site, line, model_version, COUNT(*) AS parts, COUNT_IF(outcome = 'ok') AS passed,
    COUNT_IF(outcome = 'defect') AS rejected, COUNT_IF(outcome = 'unsure') AS unsure,
    COUNT_IF(label = 'sample') AS sampled,
    COUNT_IF(label = 'defect') AS labelled_rejected, COUNT_IF(label = 'unsure') AS labelled_unsure,
    SUM(CASE WHEN label = 'sample' THEN weight END) AS w,
    SUM(CASE WHEN label = 'sample' THEN weight * weight END) AS ww,
    SUM(CASE WHEN label = 'sample' THEN weight * bad END) AS wy,
    SUM(CASE WHEN label = 'defect' THEN 1e0 - bad ELSE 0e0 END) AS rejected_good,
    SUM(CASE WHEN label = 'unsure' THEN bad ELSE 0e0 END) AS unsure_bad
  FROM joined
  GROUP BY site, line, model_version
), shares AS (
  SELECT *, CAST(passed AS double) AS whole, w * w / ww AS n, wy / w AS p,
    wy / w * (w * w / ww) AS k, CAST(labelled_rejected AS double) AS m, rejected_good AS j, :z * :z AS zz,
    CASE WHEN unsure = 0 THEN 0e0 ELSE unsure * (unsure_bad / NULLIF(labelled_unsure, 0)) END AS unsure_defects
  FROM counted
), bounds AS (
  SELECT *, whole * p AS escapes,
    whole * CASE WHEN k <= 0 THEN 0e0
      ELSE (k + zz / 2) / (n + zz) - :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS escapes_low,
    whole * CASE WHEN k >= n THEN 1e0
      ELSE (k + zz / 2) / (n + zz) + :z / (n + zz) * sqrt(k * (n - k) / n + zz / 4) END AS escapes_high,
    CASE WHEN rejected = 0 THEN 0e0 ELSE rejected * (j / NULLIF(m, 0)) END AS false_rejects,
    CASE WHEN rejected = 0 THEN 0e0 WHEN m = 0 THEN NULL WHEN j = 0 THEN 0e0
      ELSE rejected * ((j + zz / 2) / (m + zz) - :z / (m + zz) * sqrt(j * (m - j) / m + zz / 4)) END
      AS false_rejects_low,
    CASE WHEN rejected = 0 THEN 0e0 WHEN m = 0 THEN NULL WHEN j = m THEN CAST(rejected AS double)
      ELSE rejected * ((j + zz / 2) / (m + zz) + :z / (m + zz) * sqrt(j * (m - j) / m + zz / 4)) END
      AS false_rejects_high
  FROM shares
), truths AS (
  SELECT *, rejected - false_rejects + unsure_defects AS caught,
    parts - (rejected - false_rejects + unsure_defects) - escapes AS good
  FROM bounds
)
SELECT site, line, model_version, parts, passed, rejected, unsure, sampled AS labelled_passed,
  labelled_rejected, labelled_unsure, escapes,
  CASE WHEN n IS NULL THEN NULL ELSE escapes_low END AS escapes_low,
  CASE WHEN n IS NULL THEN NULL ELSE escapes_high END AS escapes_high,
  1e6 * escapes / NULLIF(passed, 0) AS escape_ppm,
  escapes / NULLIF(escapes + caught, 0e0) AS escape_rate,
  CASE WHEN n IS NULL THEN NULL ELSE escapes_low / NULLIF(escapes_low + caught, 0e0) END AS escape_rate_low,
  CASE WHEN n IS NULL THEN NULL ELSE escapes_high / NULLIF(escapes_high + caught, 0e0) END AS escape_rate_high,
  false_rejects, false_rejects_low, false_rejects_high, false_rejects / NULLIF(good, 0e0) AS false_reject_rate,
  false_rejects_low / NULLIF(good, 0e0) AS false_reject_rate_low,
  false_rejects_high / NULLIF(good, 0e0) AS false_reject_rate_high
FROM truths
ORDER BY site, line, model_version
