-- @accounts people with three sessions each, and what goes with it. Foreign keys are
-- not checked row by row: everything refers to what is made here. Indexes that are no
-- constraints are made afterwards.
SET session_replication_role = replica;
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';

-- Ids as UUIDv7 have them: in the order of time, and random at the end.
CREATE FUNCTION t_id(kind int, i bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(h, 13, 3) || '-8' || substr(h, 16, 3) || '-' || substr(h, 19, 12)
	FROM (SELECT lpad(to_hex(1760000000000 + i), 12, '0') || md5(kind || '/' || i) AS h) x
$$;
CREATE FUNCTION t_bytes(kind int, i bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT sha256((kind || '/' || i)::bytea) $$;
-- So many microseconds of the past, the later the greater i.
CREATE FUNCTION t_at(i bigint, n bigint, days int) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
	SELECT (extract(epoch FROM now()) * 1e6)::bigint - ((n - i) * (days * 86400e6 / n))::bigint
$$;

INSERT INTO sp_subjects (id, kind, disabled, version, created_at)
	SELECT t_id(1, i), 'user', i % 1000 = 0, 1, t_at(i, @accounts, 700) FROM generate_series(1, @accounts) i;
INSERT INTO sp_accounts (id, username, username_key, email, email_key, email_verified, full_name, password_hash, created_at, updated_at, last_login_at)
	SELECT t_id(1, i), 'user' || i, 'user' || i, 'user' || i || '@example.com', 'user' || i || '@example.com', TRUE, 'Person ' || i, '@hash', t_at(i, @accounts, 700), t_at(i, @accounts, 700), t_at(i, @accounts, 30)
	FROM generate_series(1, @accounts) i;
INSERT INTO sp_subject_roles (subject_id, role) SELECT t_id(1, i), 'user' FROM generate_series(1, @accounts) i;
INSERT INTO sp_subject_permissions (subject_id, permission) SELECT t_id(1, i), 'read:users' FROM generate_series(1, @accounts, 100) i;
-- Two of three are alive, one was ended; they belong to everybody in turn.
INSERT INTO sp_sessions (id, subject_id, client_id, scoped, scope, amr, mfa, auth_time, created_at, last_used_at, idle_until, expires_at, ended_at, end_reason, address, user_agent, generation, refresh, refreshed_at)
	SELECT t_id(2, i), t_id(1, 1 + i % @accounts), 'first-party', FALSE, '', 'pwd', FALSE, at, at, at, at + 1209600000000, at + 2592000000000,
		CASE WHEN i % 3 = 0 THEN at + 3600000000 ELSE 0 END, CASE WHEN i % 3 = 0 THEN 'logout' ELSE '' END, '192.0.2.' || i % 250, 'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0', i % 40, t_bytes(2, i), at
	FROM (SELECT i, t_at(i, 3 * @accounts, 13) AS at FROM generate_series(1, 3 * @accounts::bigint) i) s;
INSERT INTO sp_access_tokens (digest, session_id, scoped, scope, issued_at, expires_at)
	SELECT t_bytes(3, i), t_id(2, i), FALSE, '', t_at(i, @accounts, 1), t_at(i, @accounts, 1) + 900000000 FROM generate_series(1, @accounts, 3) i;
INSERT INTO sp_api_keys (id, subject_id, name, prefix, digest, scopes, created_at, expires_at, is_active, last_used_at)
	SELECT t_id(4, i), t_id(1, i), 'nightly report', 'sp_live_abcd', t_bytes(4, i), '', t_at(i, @accounts, 300), 0, TRUE, t_at(i, @accounts, 10) FROM generate_series(1, @accounts, 5) i;
INSERT INTO sp_attempts (account, network, failures, last_at, until, held, seen_at, forget_at)
	SELECT md5('a' || i), '192.0.2.' || i % 250 || '/32', i % 3, t_at(i, @accounts, 60), 0, '', t_at(i, @accounts, 60), t_at(i, @accounts, 60) + 7776000000000 FROM generate_series(1, @accounts, 2) i;
INSERT INTO sp_devices (subject_id, device, seen_at, told_at) SELECT t_id(1, i), t_bytes(5, i), t_at(i, @accounts, 100), 0 FROM generate_series(1, @accounts) i;
INSERT INTO sp_audit (id, at, action, result, actor, actor_kind, target, reason, address, request_id, detail)
	SELECT t_id(6, i), t_at(i, @accounts, 300), 'session.created', 'success', t_id(1, i), 'user', t_id(1, i), '', '192.0.2.' || i % 250, t_id(7, i), '{}'
	FROM generate_series(1, @accounts) i;
INSERT INTO sp_totp (subject_id, enrolment, sealed, confirmed, last_step, created_at)
	SELECT t_id(1, i), t_id(8, i), t_bytes(8, i), TRUE, 1, t_at(i, @accounts, 300) FROM generate_series(3, @accounts, 10) i;
UPDATE sp_accounts SET mfa = TRUE WHERE id IN (SELECT subject_id FROM sp_totp);
INSERT INTO sp_recovery_codes (subject_id, digest, used_at) SELECT t_id(1, i), t_bytes(9, i * 10 + n), 0 FROM generate_series(3, @accounts, 10) i, generate_series(1, 10) n;
INSERT INTO sp_mail_tokens (digest, purpose, subject_id, address, bound, payload, code, handle, familiar, tries, used, created_at, expires_at)
	SELECT t_bytes(10, i), 'reset', t_id(1, i), t_bytes(11, i), t_bytes(12, i), '', NULL, NULL, FALSE, 0, FALSE, t_at(i, @accounts, 1), t_at(i, @accounts, 1) + 1800000000 FROM generate_series(1, @accounts, 20) i;
INSERT INTO sp_pending_signins (digest, subject_id, bound, client_id, scoped, scope, cookie, tries, created_at, expires_at)
	SELECT t_bytes(13, i), t_id(1, i), t_bytes(14, i), 'first-party', FALSE, '', FALSE, 0, t_at(i, @accounts, 1), t_at(i, @accounts, 1) + 300000000 FROM generate_series(3, @accounts, 50) i;
INSERT INTO sp_changes (what, at) SELECT t_id(1, i), t_at(i, @accounts, 1) FROM generate_series(1, @accounts, 10) i;
