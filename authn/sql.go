package authn

// StateColumns are what a Confirm reads beside its own columns, and State.Columns
// where they go: of u, the row of sp_subjects, and v, that of sp_versions. It is
// one statement with what tells whether the credential is alive, so that all is
// of one moment.
const StateColumns = `u.version, v.roles, v.signing_keys,
			(SELECT COALESCE(string_agg(role, ' '), '') FROM sp_subject_roles WHERE subject_id = u.id),
			(SELECT COALESCE(string_agg(permission, ' '), '') FROM sp_subject_permissions WHERE subject_id = u.id)`

// Columns returns where a statement's columns go: own, and then StateColumns.
func (s *State) Columns(own ...any) []any {
	return append(own, &s.Subject, &s.Roles, &s.Keys, &s.RoleNames, &s.Permissions)
}
