package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v4"
)

func (s *server) exportUsers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	err := s.queryUsers(r, func(user User) error { return encoder.Encode(user) }, "order by id")
	if err != nil {
		panic(http.ErrAbortHandler) // the client sees that the answer is cut
	}
}

func (s *server) importUsers(w http.ResponseWriter, r *http.Request) (any, error) {
	rows := &userSource{decoder: json.NewDecoder(r.Body)}
	columns := []string{"email", "hashed_password", "display_name"}
	created, err := s.pool.CopyFrom(r.Context(), pgx.Identifier{"users"}, columns, rows)
	if rows.Err() != nil {
		return nil, errInvalid
	}
	return map[string]int64{"created": created}, err
}

// userSource is a pgx.CopyFromSource of NDJSON.
type userSource struct {
	decoder *json.Decoder
	user    struct {
		Email          string
		HashedPassword string  `json:"hashed_password"`
		DisplayName    *string `json:"display_name"`
	}
	err error
}

func (u *userSource) Next() bool {
	u.user.Email, u.user.HashedPassword, u.user.DisplayName = "", "", nil
	u.err = u.decoder.Decode(&u.user)
	if u.err == nil && (!isEmail(u.user.Email) || u.user.HashedPassword == "") {
		u.err = errInvalid
	}
	return u.err == nil
}

func (u *userSource) Values() ([]any, error) {
	return []any{strings.ToLower(u.user.Email), u.user.HashedPassword, u.user.DisplayName}, nil
}

func (u *userSource) Err() error {
	if u.err == io.EOF {
		return nil
	}
	return u.err
}
