-- What a user types first. The library must be preloaded: shared_preload_libraries = 'crdt_db'.
CREATE EXTENSION crdt_db;
-- Names of this database's own peers hold a token that changes with every start of the server; tests show a star.
CREATE FUNCTION plain(answer jsonb) RETURNS jsonb LANGUAGE sql STABLE AS
    $$ SELECT regexp_replace(answer::text, ':[0-9a-f]{13}:', ':*:', 'g')::jsonb $$;
CREATE FUNCTION plain(answer json) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT plain(answer::jsonb) $$;
CREATE FUNCTION plain(answer text) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT regexp_replace(answer, ':[0-9a-f]{13}:', ':*:', 'g') $$;
