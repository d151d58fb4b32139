-- release_history: events of releases, by device: trials, commits, rollbacks, refusals, first verdicts
-- version: 2
-- param first_day day = first: first day, UTC
-- param last_day day = last: last day, UTC, included
-- param site name = *: only this site
-- param line name = *: only this line
-- column site: the plant
-- column line: its line
-- column thing: the device
-- column inspection: whose model
-- column at: UTC
-- column event: a state that the lifecycle reached (docs/lifecycle.md), or `first verdict`
-- column release: name/version that the event is about
-- column share: of the parts that a candidate inspects too
-- column detail: why it was refused
WITH reported AS (
  SELECT DISTINCT site, line, thing, inspection, reported_at, state, active_name, active_version, candidate_name,
    candidate_version, refused_name, refused_version, refusal_reason, share
  FROM model_reports
  WHERE day BETWEEN :first_day AND :last_day
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line)
), moved AS (
  SELECT *,
    LAG(state) OVER (PARTITION BY site, line, thing, inspection ORDER BY reported_at) AS before_state,
    LAG(share) OVER (PARTITION BY site, line, thing, inspection ORDER BY reported_at) AS before_share
  FROM reported
), reports AS (
  SELECT site, line, thing, inspection, reported_at AS at, state AS event,
    CASE WHEN state = 'rolling_back' THEN COALESCE(concat(refused_name, '/', refused_version),
        concat(candidate_name, '/', candidate_version))
      WHEN state IN ('committed', 'idle', 'no_model') THEN concat(active_name, '/', active_version)
      ELSE concat(candidate_name, '/', candidate_version) END AS release,
    share, CASE WHEN state = 'rolling_back' THEN refusal_reason END AS detail
  FROM moved
  WHERE before_state IS NULL OR before_state <> state OR before_share <> share
), firsts AS (
  SELECT site, line, thing, inspection, MIN(captured_at) AS at, 'first verdict' AS event,
    concat(model_name, '/', model_version) AS release, CAST(NULL AS double) AS share, CAST(NULL AS varchar) AS detail
  FROM verdicts
  WHERE day BETWEEN substr(CAST(date_add('day', -1, CAST(:first_day AS date)) AS varchar), 1, 10) AND :last_day
    AND captured_at >= CAST(:first_day AS timestamp)
    AND captured_at < date_add('day', 1, CAST(:last_day AS timestamp))
    AND (:site = '*' OR site = :site) AND (:line = '*' OR line = :line) AND model_version IS NOT NULL
  GROUP BY site, line, thing, inspection, model_name, model_version
)
SELECT site, line, thing, inspection, at, event, release, share, detail FROM reports
UNION ALL
SELECT site, line, thing, inspection, at, event, release, share, detail FROM firsts
ORDER BY site, line, at, thing, inspection, event
