/* Stands for another extension that writes when a transaction is about to commit. */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

void _PG_init(void);
PG_FUNCTION_INFO_V1(late_write);

/* What to run before the commit of this transaction. */
static char statement[1024];

static void
before_commit(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		statement[0] = '\0';
	if ((event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE) || statement[0] == '\0')
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	SPI_execute(statement, false, 0);
	SPI_finish();
	PopActiveSnapshot();
	statement[0] = '\0';
}

/* late_write(cstring): runs the statement before this transaction commits. */
Datum
late_write(PG_FUNCTION_ARGS)
{
	strlcpy(statement, PG_GETARG_CSTRING(0), sizeof(statement));
	PG_RETURN_VOID();
}

void
_PG_init(void)
{
	RegisterXactCallback(before_commit, NULL);
}
