package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/mail"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v4"
)

const columns = "id, email, display_name, is_active, created_at"

// User is what clients see.
type User struct {
	ID          int64     `json:"id"`
	Email       string    `json:"email"`
	DisplayName *string   `json:"display_name"`
	IsActive    bool      `json:"is_active"`
	CreatedAt   time.Time `json:"created_at"`
}

func (u *User) fields() []any {
	return []any{&u.ID, &u.Email, &u.DisplayName, &u.IsActive, &u.CreatedAt}
}

func (s *server) queryUser(r *http.Request, sql string, args ...any) (user User, err error) {
	err = s.pool.QueryRow(r.Context(), sql, args...).Scan(user.fields()...)
	return user, err
}

func (s *server) queryUsers(r *http.Request, found func(User) error, where string, args ...any) error {
	var user User
	sql := "select " + columns + " from users " + where
	_, err := s.pool.QueryFunc(r.Context(), sql, args, user.fields(), func(pgx.QueryFuncRow) error {
		return found(user)
	})
	return err
}

// readID leaves it to PostgreSQL to refuse what is no bigint.
func readID(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/users/") }

func (s *server) getUser(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.queryUser(r, "select "+columns+" from users where id = $1", readID(r))
}

func (s *server) updateUser(w http.ResponseWriter, r *http.Request) (any, error) {
	var change map[string]*string
	err := json.NewDecoder(r.Body).Decode(&change)
	name, given := change["display_name"]
	if err != nil || !given {
		return nil, errInvalid
	}
	return s.queryUser(r, "update users set display_name = $1, version = version + 1, updated_at = now() "+
		"where id = $2 returning "+columns, name, readID(r))
}

func (s *server) createUser(w http.ResponseWriter, r *http.Request) (any, error) {
	var body struct {
		Email, Password string
		DisplayName     *string `json:"display_name"`
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	if err != nil || !isEmail(body.Email) || utf8.RuneCountInString(body.Password) < 8 {
		return nil, errInvalid
	}
	hash, err := s.hash(body.Password)
	if err != nil {
		return nil, err
	}
	user, err := s.queryUser(r, "insert into users (email, hashed_password, display_name) values ($1, $2, $3) "+
		"returning "+columns, strings.ToLower(body.Email), hash, body.DisplayName)
	if err == nil {
		w.Header().Set("Location", fmt.Sprint("/users/", user.ID))
		w.WriteHeader(http.StatusCreated)
	}
	return user, err
}

func isEmail(text string) bool {
	address, err := mail.ParseAddress(text)
	return err == nil && address.Address == text
}

func (s *server) listUsers(w http.ResponseWriter, r *http.Request) (any, error) {
	limit, cursor := 100, "0"
	if text := r.FormValue("limit"); text != "" {
		limit, _ = strconv.Atoi(text)
	}
	if text := r.FormValue("cursor"); text != "" {
		cursor = text
	}
	if limit < 1 || limit > 1000 {
		return nil, errInvalid
	}
	users := make([]User, 0, limit+1)
	err := s.queryUsers(r, func(user User) error {
		users = append(users, user)
		return nil
	}, "where id > $1 order by id limit $2", cursor, limit+1)
	var next *string
	if len(users) > limit {
		users = users[:limit]
		last := strconv.FormatInt(users[limit-1].ID, 10)
		next = &last
	}
	return map[string]any{"users": users, "next_cursor": next}, err
}

func (s *server) lookUpUsers(w http.ResponseWriter, r *http.Request) (any, error) {
	var body struct{ IDs []int64 }
	err := json.NewDecoder(r.Body).Decode(&body)
	if err != nil || len(body.IDs) < 1 || len(body.IDs) > 1000 {
		return nil, errInvalid
	}
	found := make(map[int64]*User, len(body.IDs))
	err = s.queryUsers(r, func(user User) error {
		found[user.ID] = &user
		return nil
	}, "where id = any($1)", body.IDs)
	users := make([]*User, len(body.IDs))
	for i, id := range body.IDs {
		users[i] = found[id]
	}
	return map[string]any{"users": users}, err
}
