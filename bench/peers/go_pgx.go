// The benchmark's contract in Go: net/http, pgx, and golang.org/x/crypto for argon2id.
// Go 1.22 or later; outside a module its router has to be asked for:
//
//go:debug httpmuxgo121=0
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/mail"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"golang.org/x/crypto/argon2"
)

// User is what clients see.
type User struct {
	ID          int64     `json:"id"`
	Email       string    `json:"email"`
	DisplayName *string   `json:"display_name"`
	IsActive    bool      `json:"is_active"`
	CreatedAt   time.Time `json:"created_at"`
}

const columns = "id, email, display_name, is_active, created_at"

var pool *pgxpool.Pool
var memory, passes uint32                           // what a hash costs: KiB, times
var hashing = make(chan struct{}, runtime.NumCPU()) // as many at a time as there are cores; 64 would wear out the collector

func main() {
	fmt.Sscan(os.Getenv("HASH_MEMORY")+" "+os.Getenv("HASH_PASSES"), &memory, &passes)
	url := os.Getenv("DATABASE_URL") + "&pool_max_conns=" + os.Getenv("POOL_SIZE") // it has a query already
	var err error
	if pool, err = pgxpool.Connect(context.Background(), url); err != nil {
		log.Fatal(err)
	}
	http.Handle("GET /users", handler(listUsers))
	http.Handle("POST /users", handler(createUser))
	http.Handle("GET /users/{id}", handler(getUser))
	http.Handle("PATCH /users/{id}", handler(updateUser))
	http.Handle("POST /users/lookup", handler(lookUpUsers))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

// A handler returns a status and what is sent as JSON, or how the database failed.
type handler func(http.ResponseWriter, *http.Request) (int, any, error)

func (handle handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "Bearer" || fmt.Sprintf("%x", sha256.Sum256([]byte(key))) != os.Getenv("KEY_HASH") {
		http.Error(w, "a known key is needed", http.StatusUnauthorized)
		return
	}
	status, body, err := handle(w, r)
	if err != nil {
		log.Print(err)
		status, body = http.StatusInternalServerError, "the database failed"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func getUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64) // 0, which is nobody's, where it is no number
	return one(query(r, "select "+columns+" from users where id = $1", id))
}

func updateUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	var change map[string]*string
	err := json.NewDecoder(r.Body).Decode(&change)
	name, given := change["display_name"]
	if err != nil || !given {
		return http.StatusUnprocessableEntity, "a display_name is needed", nil
	}
	return one(query(r, "update users set display_name = $1, version = version + 1, updated_at = now() "+
		"where id = $2 returning "+columns, name, id))
}

func createUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var body struct {
		User
		Password string
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	address, invalid := mail.ParseAddress(body.Email)
	if err != nil || invalid != nil || address.Address != body.Email || len([]rune(body.Password)) < 8 {
		return http.StatusUnprocessableEntity, "an email and a password of 8 characters are needed", nil
	}
	users, err := query(r, "insert into users (email, hashed_password, display_name) values (lower($1), $2, $3) "+
		"on conflict (email) do nothing returning "+columns, body.Email, hash(body.Password), body.DisplayName)
	if len(users) == 0 {
		return http.StatusConflict, "the email is taken", err
	}
	w.Header().Set("Location", fmt.Sprint("/users/", users[0].ID))
	return http.StatusCreated, users[0], err
}

func listUsers(w http.ResponseWriter, r *http.Request) (int, any, error) {
	cursor, invalid := strconv.ParseInt(cmp.Or(r.FormValue("cursor"), "0"), 10, 64)
	limit, err := strconv.Atoi(cmp.Or(r.FormValue("limit"), "100"))
	if invalid != nil || err != nil || limit < 1 || limit > 1000 {
		return http.StatusUnprocessableEntity, "a cursor, and a limit from 1 to 1000", nil
	}
	users, err := query(r, "select "+columns+" from users where id > $1 order by id limit $2", cursor, limit+1)
	page := map[string]any{"users": users, "next_cursor": nil}
	if len(users) > limit {
		page["users"], page["next_cursor"] = users[:limit], strconv.FormatInt(users[limit-1].ID, 10)
	}
	return http.StatusOK, page, err
}

func lookUpUsers(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var body struct{ IDs []int64 }
	if json.NewDecoder(r.Body).Decode(&body) != nil || len(body.IDs) < 1 || len(body.IDs) > 1000 {
		return http.StatusUnprocessableEntity, "1 to 1000 ids are needed", nil
	}
	users, err := query(r, "select "+columns+" from users where id = any($1)", body.IDs)
	found := make(map[int64]*User, len(users))
	for _, user := range users {
		found[user.ID] = user
	}
	ordered := make([]*User, len(body.IDs))
	for i, id := range body.IDs {
		ordered[i] = found[id]
	}
	return http.StatusOK, map[string]any{"users": ordered}, err
}

// query returns the users that a statement selects or writes.
func query(r *http.Request, sql string, args ...any) ([]*User, error) {
	var row User
	users, fields := []*User{}, []any{&row.ID, &row.Email, &row.DisplayName, &row.IsActive, &row.CreatedAt}
	_, err := pool.QueryFunc(r.Context(), sql, args, fields, func(pgx.QueryFuncRow) error {
		user := row
		users = append(users, &user)
		return nil
	})
	return users, err
}

func one(users []*User, err error) (int, any, error) {
	if len(users) == 0 {
		return http.StatusNotFound, "no such user", err
	}
	return http.StatusOK, users[0], err
}

func hash(password string) string {
	hashing <- struct{}{}
	defer func() { <-hashing }()
	salt := make([]byte, 16)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, passes, memory, 1, 32)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=1$%s$%s", memory, passes, encode(salt), encode(key))
}
