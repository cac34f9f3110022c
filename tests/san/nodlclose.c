/* Linked into programs built with the address sanitizer only: keeps OpenMPI's plug-ins mapped at
 * exit, so that the leak checker can name their frames and tests/san/lsan.supp can match them. */
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
