"""`svc check`: the proof that SQL, signatures, structs and schema agree."""
