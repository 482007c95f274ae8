-- Runs once, on an empty volume: the database of MLflow, beside that of the platform.
CREATE DATABASE mlflow CHARACTER SET utf8mb4;
GRANT ALL ON mlflow.* TO 'tactful'@'%';
