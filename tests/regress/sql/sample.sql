-- Shows how a transcript is written: a user could type it. To be replaced by the first real ones.
SELECT current_setting('shared_preload_libraries') AS preloaded;
CREATE TABLE todos (id int PRIMARY KEY, title text, done bool DEFAULT false);
INSERT INTO todos (id, title) VALUES (1, 'milk'), (2, 'bread');
SELECT * FROM todos ORDER BY id;
DROP TABLE todos;
