-- Who may act and what they may do. Sessions, keys and grants refer to
-- subjects, not to accounts: a service with its own users table has subjects
-- too.

-- +goose Up
CREATE TABLE sp_subjects (
    id         TEXT PRIMARY KEY CHECK (id <> ''),
    kind       TEXT NOT NULL,
    disabled   BOOLEAN NOT NULL,
    version    BIGINT NOT NULL, -- grows with every change of the subject's grants or state
    created_at BIGINT NOT NULL
);

-- Versions of what is shared, in one row that every request reads: a node that
-- has cached it compares.
CREATE TABLE sp_versions (
    id           BIGINT PRIMARY KEY,
    roles        BIGINT NOT NULL,
    signing_keys BIGINT NOT NULL
);
INSERT INTO sp_versions (id, roles, signing_keys) VALUES (1, 1, 1);

CREATE TABLE sp_permissions (
    name        TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    source      TEXT NOT NULL -- builtin, route (a rule named it), put
);
INSERT INTO sp_permissions (name, description, source) VALUES
    ('read:users', 'See accounts', 'builtin'),
    ('write:users', 'Create and change accounts', 'builtin'),
    ('delete:users', 'Delete accounts', 'builtin'),
    ('assign:roles', 'Give and take roles and permissions', 'builtin'),
    ('write:roles', 'Define roles and permissions', 'builtin'),
    ('read:audit', 'Read the audit log', 'builtin'),
    ('introspect:tokens', 'Ask what a token stands for', 'builtin'),
    ('read:policies', 'See policies', 'builtin'),
    ('write:policies', 'Define policies', 'builtin'),
    ('write:clients', 'Manage machine clients', 'builtin');

CREATE TABLE sp_roles (
    name        TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    builtin     BOOLEAN NOT NULL
);
CREATE TABLE sp_role_permissions (
    role       TEXT NOT NULL REFERENCES sp_roles (name) ON DELETE CASCADE,
    permission TEXT NOT NULL REFERENCES sp_permissions (name) ON DELETE CASCADE,
    PRIMARY KEY (role, permission)
);
CREATE TABLE sp_role_includes (
    role     TEXT NOT NULL REFERENCES sp_roles (name) ON DELETE CASCADE,
    included TEXT NOT NULL REFERENCES sp_roles (name) ON DELETE CASCADE,
    PRIMARY KEY (role, included)
);
INSERT INTO sp_roles (name, description, builtin) VALUES
    ('admin', 'May do everything', TRUE),
    ('moderator', 'Sees accounts', TRUE),
    ('user', 'Given at registration', TRUE),
    ('guest', 'No permissions of its own', TRUE);
INSERT INTO sp_role_permissions (role, permission) VALUES ('moderator', 'read:users');
INSERT INTO sp_role_includes (role, included) VALUES ('admin', 'moderator'), ('moderator', 'user'), ('user', 'guest');

CREATE TABLE sp_subject_roles (
    subject_id TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    role       TEXT NOT NULL REFERENCES sp_roles (name) ON DELETE CASCADE,
    PRIMARY KEY (subject_id, role)
);
CREATE INDEX sp_subject_roles_by_role ON sp_subject_roles (role, subject_id);
CREATE TABLE sp_subject_permissions (
    subject_id TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    permission TEXT NOT NULL REFERENCES sp_permissions (name) ON DELETE CASCADE,
    PRIMARY KEY (subject_id, permission)
);
CREATE INDEX sp_subject_permissions_by_permission ON sp_subject_permissions (permission, subject_id);
