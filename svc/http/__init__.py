"""HTTP without a domain: protocol, parsing, operations, answers, problems, paging."""
