DROP TABLE audit;
DROP TABLE workers;
